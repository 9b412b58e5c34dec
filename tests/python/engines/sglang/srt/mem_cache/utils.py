def storage_namespace_seed(extra_key, cache_salt):
    """That there is one says that pages of LoRA adapters have names of their own."""
    raise NotImplementedError

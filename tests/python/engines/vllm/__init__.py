"""What infercache.vllm imports of vLLM, for tests where vLLM is not installed: names and abstract methods
as in vLLM 0.33, no behaviour."""

__version__ = "absent"

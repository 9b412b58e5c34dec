def get_model():
    """The resolved options of the model; ValueError outside of an engine, which publishes them."""
    raise ValueError("config namespace 'model' not published")

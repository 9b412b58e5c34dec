"""What infercache.sglang imports of SGLang, for tests where SGLang is not installed: names and abstract
methods as in SGLang 0.5.23, no behaviour but what an adapter has to cope with."""

__version__ = "absent"

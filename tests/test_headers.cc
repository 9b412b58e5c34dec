// A target that precompiles headers needs a source of its own.
int main() { return 0; }

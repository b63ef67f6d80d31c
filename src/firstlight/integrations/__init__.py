"""`check` where training starts: pytest, Lightning, Hugging Face. Each module loads its library, nothing else does."""

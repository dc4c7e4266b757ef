"""Graph rewrites, one per file: ``apply(model)`` changes it in place, returns how often."""

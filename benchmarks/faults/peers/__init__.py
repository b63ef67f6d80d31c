"""Published rules, written anew from their published thresholds."""

"""Rules proved by experiment: random graphs made from a rule's own pattern, before and after."""

"""What the control port tells operators: lists, history, rules, metrics, health, and the page."""

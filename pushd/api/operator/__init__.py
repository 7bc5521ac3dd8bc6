"""What operators ask the control port: lists, history, rules, metrics, health, and the page."""

`pushdctl rules` without a topic lists all rules in the order in which they are tried, with the defaults last. `Client.all_rules()` returns them.

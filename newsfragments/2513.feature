`--rpc MODULE:FUNCTION` serves remote procedure calls of Centrifuge clients with a function in Python: docs/centrifuge.md.

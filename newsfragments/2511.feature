With `--centrifuge on`, the control port has Centrifugo's HTTP API at `/api/…`, for libraries such as PyPI `cent`; `--api-key` protects it.

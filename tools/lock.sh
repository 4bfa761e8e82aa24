#!/bin/sh
# Make requirements.txt, the full lock, anew from pyproject.toml. Needs uv on the path (pip install uv).
# Versions already locked stay unless --upgrade is given.
set -eu
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "uv is missing: pip install uv, then run this again."; exit 1; }
body=$(mktemp)
trap 'rm -f "$body"' EXIT
cp requirements.txt "$body"
uv pip compile pyproject.toml --extra book --extra test --extra evaluation --extra peers --universal --python-version 3.11 \
  --no-header --no-emit-index-url --quiet --output-file "$body" "$@"
{
  echo "# The full lock: everything the book and its tests are built with, for Python 3.11 to 3.13 on Linux, macOS and Windows."
  echo "# Made from pyproject.toml, and made anew by \`make lock\`, which runs"
  echo "#   uv pip compile pyproject.toml --extra book --extra test --extra evaluation --extra peers --universal --python-version 3.11"
  echo "# Do not edit by hand."
  grep -v '^#' "$body"
} > requirements.txt

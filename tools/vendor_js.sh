#!/bin/sh
# Fetch the JavaScript that the pages serve themselves: MathJax, require.js and the widget manager, of fixed versions; and
# axe-core, with which the tests look at the pages (MPL 2.0; no page serves it).
# Needs npm (it unpacks the packages and runs none of their scripts). The results, _assets/thirdparty and
# tests/browser/thirdparty, are committed.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/_assets/thirdparty
tests=$PWD/tests/browser/thirdparty
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# @jupyter-widgets/base is there for the licence, which the manager's own package leaves out.
npm pack --silent mathjax@3.2.2 @jupyter-widgets/html-manager@1.0.15 @jupyter-widgets/base@6.0.11 requirejs@2.3.8 \
  axe-core@4.14.1 >/dev/null
sha256sum --check --quiet <<SUMS
1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09  mathjax-3.2.2.tgz
2b9d65cb7913e1c7d671757a10008b32c9c2448d4429513371e55c07d6107638  jupyter-widgets-html-manager-1.0.15.tgz
8dbe716ae70d257eabf8b5bd4fb995ef3962ae73487d51216c8184a1177225d5  jupyter-widgets-base-6.0.11.tgz
777158e89275e16bd51aec3ef714fbcb5dc45789e7078659933bc814916d7dec  requirejs-2.3.8.tgz
e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745  axe-core-4.14.1.tgz
SUMS
for archive in *.tgz; do
  mkdir "${archive%.tgz}"
  tar xzf "$archive" -C "${archive%.tgz}" --strip-components=1
done

rm -rf "$out"
mkdir -p "$out/mathjax/output/chtml/fonts" "$out/mathjax/input/tex" "$out/mathjax/a11y" \
  "$out/widgets" "$out/@jupyter-widgets/html-manager/dist"

mathjax=mathjax-3.2.2
cp $mathjax/es5/tex-chtml.js $mathjax/LICENSE "$out/mathjax/"
cp -r $mathjax/es5/output/chtml/fonts/woff-v2 "$out/mathjax/output/chtml/fonts/"
cp -r $mathjax/es5/input/tex/extensions "$out/mathjax/input/tex/"
cp $mathjax/es5/a11y/assistive-mml.js "$out/mathjax/a11y/"

cp requirejs-2.3.8/require.js "$out/widgets/"
manager=jupyter-widgets-html-manager-1.0.15
cp $manager/dist/embed-amd.js $manager/dist/embed.js.LICENSE.txt "$out/widgets/"
cp jupyter-widgets-base-6.0.11/LICENSE "$out/widgets/"
# The manager asks for its fonts relative to require.js's baseUrl, under two names.
cp $manager/dist/*.woff2 "$out/@jupyter-widgets/html-manager/dist/"
cp $manager/dist/*.woff2 "$out/@jupyter-widgets/"

mkdir -p "$tests"
cp axe-core-4.14.1/axe.min.js "$tests/"
cp axe-core-4.14.1/LICENSE "$tests/axe.LICENSE"
du -sh "$out" "$tests"

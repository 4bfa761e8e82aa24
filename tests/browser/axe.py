"""What axe-core finds on a page that is open, light and dark."""

from pathlib import Path

from playwright.sync_api import Page

AXE = (Path(__file__).parent / "thirdparty" / "axe.min.js").read_text(encoding="utf-8")
# Held in addition to what axe calls serious or critical.
RULES = ["heading-order", "page-has-heading-one"]

# All that is folded is opened first, for axe passes over what is not shown.
UNFOLD = """async () => {
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  await document.fonts.ready;
  document.querySelectorAll("article details").forEach(folded => { folded.open = true; });
  document.querySelectorAll("article .toggle-hidden button.toggle-button").forEach(button => button.click());
  // The theme looks a moment later for what scrolls now.
  await new Promise(done => setTimeout(done, 500));
}"""
LOOK = """async ([theme, rules, options]) => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.mode = theme;
  // Colours that fade over are measured when they have arrived.
  const still = document.head.appendChild(document.createElement("style"));
  still.textContent = "*, ::before, ::after { transition: none !important; animation: none !important }";
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const found = await axe.run(document, {resultTypes: ["violations"], ...options});
  return found.violations
    .filter(({id, impact}) => ["serious", "critical"].includes(impact) || rules.includes(id))
    .flatMap(({id, nodes}) => nodes.map(node => `${theme}: ${id}: ${node.html.slice(0, 120)}`));
}"""


# All formulas are made alike, and a few stand for the others.
FEWER = "() => [...document.querySelectorAll('mjx-container')].slice(9).forEach(one => one.replaceChildren('formula'))"
# Contrast is looked up element by element, which takes long. A formula has the ink of its sentence, so that one word
# stands for it, and in a block of code the words of one kind have one ink.
THIN = """() => {
  document.querySelectorAll("mjx-container").forEach(formula => formula.replaceChildren("formula"));
  document.querySelectorAll("article pre").forEach(block => {
    const seen = new Set();
    for (const word of block.querySelectorAll("span")) {
      if (seen.has(word.className)) word.replaceWith(word.textContent);
      seen.add(word.className);
    }
  });
}"""
COLOURS = ["color-contrast", "link-in-text-block"]


def violations(page: Page) -> list[str]:
    """What axe finds on the page that is open; in the dark, where pictures have twins, their texts and all colours."""
    page.evaluate(UNFOLD)
    page.evaluate(FEWER)
    page.evaluate(AXE)
    others = {"rules": {rule: {"enabled": False} for rule in COLOURS}}
    found = page.evaluate(LOOK, ["light", RULES, others])
    page.evaluate(THIN)
    for theme, rules in (("light", COLOURS), ("dark", [*COLOURS, "image-alt"])):
        found += page.evaluate(LOOK, [theme, RULES, {"runOnly": {"type": "rule", "values": rules}}])
    return found

"""The page at `/`: one file without anything from elsewhere; all text of documents goes in as text, never as HTML."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root { color-scheme: light dark; --edge: #8884; --mark: #ffe08a; }
@media (prefers-color-scheme: dark) { :root { --mark: #6b5600; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1.5rem 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 1rem; }
form { display: flex; flex-wrap: wrap; gap: .5rem; }
input, select, textarea, button { font: inherit; padding: .45rem .6rem; border: 1px solid var(--edge);
  border-radius: .4rem; background: transparent; color: inherit; }
#query { flex: 1 1 100%; font-size: 1.1rem; }
#filters { flex: 1 1 14rem; }
button { cursor: pointer; background: #2563eb; border-color: #2563eb; color: #fff; }
:focus-visible { outline: 2px solid #2563eb; outline-offset: 1px; }
#status { min-height: 1.5rem; margin: .8rem 0; opacity: .8; }
#status.bad { color: #c2410c; opacity: 1; }
ol { list-style: none; padding: 0; margin: 0; }
li { border: 1px solid var(--edge); border-radius: .5rem; padding: .8rem 1rem; margin-bottom: .7rem; }
li h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
.about { font-size: .85rem; opacity: .75; overflow-wrap: anywhere; }
.passage { margin: .4rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--mark);
  padding-left: .7rem; max-height: 16rem; overflow: auto; }
mark { background: var(--mark); color: inherit; border-radius: .2rem; }
details { margin-top: 1.5rem; border-top: 1px solid var(--edge); padding-top: .8rem; }
details form { margin-top: .6rem; }
details input, details textarea { flex: 1 1 100%; }
textarea { min-height: 7rem; }
kbd { border: 1px solid var(--edge); border-radius: .25rem; padding: 0 .3rem; font-size: .85em; }
"""

SCRIPT = r"""
"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, text, name) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  return node;
};
function say(text, bad) { $("status").textContent = text; $("status").className = bad ? "bad" : ""; }
async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  if ($("token").value) headers.Authorization = "Bearer " + $("token").value;
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const data = await answer.json();
  if (answer.status === 401) $("token").hidden = false;
  if (!answer.ok) throw new Error(data.error || answer.statusText);
  return data;
}
function conditions(text) {
  const names = { "=": "eq", "!=": "ne", ">=": "gte", "<=": "lte", ">": "gt", "<": "lt" }, filters = {};
  for (const part of text.split(",").map((p) => p.trim()).filter(Boolean)) {
    const found = part.match(/^([^=!<>]+)(!=|>=|<=|=|>|<)(.*)$/);
    if (!found) throw new Error(`filter "${part}": write name=value or year>=2000`);
    let value = found[3].trim();
    try { value = JSON.parse(value); } catch { /* it is text */ }
    (filters[found[1].trim()] ??= {})[names[found[2]]] = value;
  }
  return filters;
}
function marked(text, query) {
  const node = make("p", undefined, "passage");
  const words = [...new Set(query.toLowerCase().match(/[\p{L}\p{N}]+/gu) || [])];
  if (!words.length) { node.textContent = text; return node; }
  let last = 0;
  for (const found of text.matchAll(/[\p{L}\p{N}]+/gu)) {
    if (!words.includes(found[0].toLowerCase())) continue;
    node.append(text.slice(last, found.index), make("mark", found[0]));
    last = found.index + found[0].length;
  }
  node.append(text.slice(last));
  return node;
}
const number = (x) => (x === null ? null : x.toFixed(3));
function show(hit, query) {
  const item = make("li");
  item.tabIndex = 0;
  item.append(make("h2", hit.title || hit.id));
  const scores = [["score", hit.score], ["window", hit.window_score], ["whole", hit.whole_score]];
  scores.push(["BM25", hit.bm25_score]);
  const told = scores.filter(([, x]) => x !== null).map(([name, x]) => `${name} ${number(x)}`).join(" · ");
  item.append(make("div", `${hit.id} · ${told} · characters ${hit.start} to ${hit.stop}`, "about"));
  const fields = Object.entries(hit.metadata).map(([key, value]) => `${key}: ${value}`).join(" · ");
  if (fields) item.append(make("div", fields, "about"));
  item.append(marked(hit.passage, query));
  return item;
}
let newest = 0;
$("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  const mine = ++newest, began = performance.now(), query = $("query").value;
  try {
    const filters = conditions($("filters").value);
    const data = await ask("search", { query, k: 10, mode: $("mode").value, filters });
    if (mine !== newest) return;
    $("hits").replaceChildren(...data.hits.map((hit) => show(hit, query)));
    say(`${data.hits.length} documents in ${Math.round(performance.now() - began)} ms`);
  } catch (error) { if (mine === newest) say(error.message, true); }
});
$("ingest").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const metadata = $("metadata").value.trim() ? JSON.parse($("metadata").value) : {};
    const one = { id: $("id").value, title: $("title").value, text: $("text").value, metadata };
    const data = await ask("documents", { documents: [one] });
    say(data.new.length ? "added" : data.replaced.length ? "replaced" : "unchanged");
  } catch (error) { say(error.message, true); }
});
document.addEventListener("keydown", (event) => {
  const at = document.activeElement, items = [...$("hits").children], place = items.indexOf(at);
  const typing = ["INPUT", "TEXTAREA", "SELECT"].includes(at.tagName);
  if (event.key === "/" && !typing) { event.preventDefault(); $("query").select(); }
  if (event.key === "Escape" && typing) at.blur();
  const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
  if (step && (!typing || (at === $("query") && event.key === "ArrowDown")) && items.length) {
    event.preventDefault();
    items[Math.min(Math.max(place + step, 0), items.length - 1)].focus();
  }
});
"""

PAGE = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>farfield search</title><link rel="icon" href="data:,"><style>{STYLE}</style></head>
<body>
<h1>farfield search</h1>
<main>
<form id="search" role="search">
<input id="query" type="search" placeholder="Search" aria-label="Search" autofocus required>
<input id="filters" placeholder="filters: year&gt;=2000, lang=en" aria-label="Filters">
<select id="mode" aria-label="Ranking"><option>hybrid</option><option>dense</option><option>bm25</option></select>
<button>Search</button>
<input id="token" type="password" placeholder="token" aria-label="Token" hidden>
</form>
<p id="status" role="status" aria-live="polite">Keys: <kbd>/</kbd> search, <kbd>↓</kbd> <kbd>↑</kbd> results</p>
<ol id="hits" aria-label="Results"></ol>
<details><summary>Add a document</summary>
<form id="ingest">
<input id="id" placeholder="id" aria-label="Id" required maxlength="512">
<input id="title" placeholder="title" aria-label="Title">
<textarea id="text" placeholder="text" aria-label="Text" required></textarea>
<input id="metadata" placeholder='metadata: {{"year": 2024}}' aria-label="Metadata">
<button>Add</button>
</form></details>
</main>
<script>{SCRIPT}</script>
</body></html>
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


# Only this script and this style run, and they speak to this server alone.
POLICY = (
    f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

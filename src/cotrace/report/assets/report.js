"use strict";
/* The report's own script: one state (search, stop), and everything that follows from it. No text is ever put in as HTML. */
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { config, charts } = JSON.parse(byId("specs").textContent);
  const FIRST_CARDS = 12;
  const MOST_NAMES = 60;
  const MOST_TOPS = 24;
  const CUTS = [-0.6, -0.3, -0.05, 0.05, 0.3, 0.6];
  const views = new Map();
  const feeds = new Map();
  const state = { search: 0, stop: data.start, own: data.start, cards: FIRST_CARDS };

  const signed = (x) => (x === null || x === undefined ? "not computed" : (x >= 0 ? "+" : "\u2212") + magnitude(Math.abs(x)));
  const magnitude = (x) => (x === 0 ? "0" : x >= 1e6 || x < 1e-4 ? x.toExponential(2) : String(Number(x.toPrecision(3))));
  const percent = (x) => (x === null ? "" : `${Math.round(100 * x)} %`);

  /* Components: a mask index is a place in one of the space's blocks. */
  const starts = data.blocks.map((block) => block.start);
  const blockOf = (index) => {
    let low = 0, high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= index) low = middle; else high = middle - 1;
    }
    return low;
  };
  const unitOf = (block, offset) => (block.units.list ? block.units.list[offset] : block.units.first + offset);
  const nameOf = (index) => {
    const block = data.blocks[blockOf(index)];
    const unit = block.whole ? "" : unitOf(block, index - block.start);
    return `L${block.layer}.${block.tag}${unit}${block.role === "all" ? "" : "@" + block.role}`;
  };

  /* The set of a stop: member -> the smallest stop from which on it has always been in. */
  const membersAt = (search, stop) => {
    const since = new Map();
    for (let i = 0; i <= stop; i += 1) {
      for (const index of search.steps[i].out) since.delete(index);
      for (const index of search.steps[i].in) since.set(index, i);
    }
    return since;
  };

  /* Charts: each has one changing table at most; rows wait until its chart is there. */
  const feed = (id, table, rows) => {
    feeds.set(id, { table, rows });
    const view = views.get(id);
    if (view) view.data(table, rows).runAsync();
  };
  const embed = async (id) => {
    const place = byId(id);
    if (!place || views.has(id)) return;
    views.set(id, null);
    const waiting = feeds.get(id);
    const filled = waiting ? { [waiting.table]: waiting.rows } : {};
    const { view } = await vegaEmbed(place, { ...charts[id], datasets: { ...charts[id].datasets, ...filled } }, {
      config, ast: true, renderer: "svg", actions: false, defaultStyle: false, tooltip: { theme: "custom", disableDefaultStyle: true },
    });
    views.set(id, view);
    const now = feeds.get(id);
    if (now !== waiting) await view.data(now.table, now.rows).runAsync();
  };
  const embedAll = async () => {
    for (const id of Object.keys(charts)) {
      await embed(id);
      await new Promise((done) => setTimeout(done));
    }
    document.documentElement.dataset.drawn = "yes";
  };

  /* Map and density */
  const shadeOf = (since, stop) => {
    const rest = stop === 0 ? 1 : 1 - since / (stop + 1);
    return Math.max(1, Math.min(4, Math.ceil(4 * rest)));
  };
  const cellsOf = (panel, since, search) => {
    const rows = [];
    for (const at of panel.blocks) {
      const block = data.blocks[at];
      for (let offset = 0; offset < block.units.count; offset += 1) {
        const index = block.start + offset;
        const came = since.get(index);
        const shade = came === undefined ? 0 : shadeOf(came, state.stop);
        const alone = data.alone[index];
        rows.push({
          component: nameOf(index), layer: block.layer, unit: block.whole ? block.tag : unitOf(block, offset), shade,
          dark: shade > 2 ? 1 : 0, came: came === undefined ? "" : String(search.sizes[came]),
          state: came === undefined ? "not in the set" : `in the set, always from k = ${search.sizes[came]} on`,
          alone: alone === undefined ? "not computed" : signed(alone),
        });
      }
    }
    return rows;
  };
  const countsOf = (panel, since) => {
    const layers = new Map();
    for (const at of panel.blocks) {
      const block = data.blocks[at];
      let count = 0;
      for (const index of since.keys()) if (index >= block.start && index < block.start + block.units.count) count += 1;
      const before = layers.get(block.layer) || { count: 0, total: 0 };
      layers.set(block.layer, { count: before.count + count, total: before.total + block.units.count });
    }
    return [...layers].map(([layer, { count, total }]) => ({
      layer, count, words: count ? String(count) : "", share: `${magnitude((100 * count) / total)} % of ${total}`,
    }));
  };
  const topsOf = (panel, since, search) => {
    const own = new Set(panel.blocks);
    const found = [...since].filter(([index]) => own.has(blockOf(index)));
    found.sort((a, b) => a[1] - b[1] || Math.abs(data.alone[b[0]] || 0) - Math.abs(data.alone[a[0]] || 0) || a[0] - b[0]);
    const list = byId(`${panel.id}-tops`);
    list.replaceChildren(...found.slice(0, MOST_TOPS).map(([index, came]) => {
      const item = document.createElement("li");
      const alone = data.alone[index] === undefined ? "" : `, alone ${signed(data.alone[index])}`;
      item.textContent = `${nameOf(index)} (from k = ${search.sizes[came]}${alone})`;
      return item;
    }));
  };
  const drawMaps = (since, search) => {
    for (const panel of data.panels) {
      if (panel.kind === "grid") feed(panel.id, "cells", cellsOf(panel, since, search));
      else {
        feed(panel.id, "cells", countsOf(panel, since));
        topsOf(panel, since, search);
      }
    }
    const names = [...since.keys()].sort((a, b) => a - b).slice(0, MOST_NAMES).map(nameOf);
    const more = since.size > MOST_NAMES ? ` and ${since.size - MOST_NAMES} more` : "";
    byId("members").textContent = names.join(" ") + more || "none";
  };

  /* The table of components */
  const body = document.querySelector("#table tbody");
  const markRows = (since) => {
    for (const row of body.rows) {
      const chosen = since.has(Number(row.dataset.index));
      row.classList.toggle("chosen", chosen);
      row.cells[1].dataset.v = chosen ? 1 : 0;
      row.cells[1].textContent = chosen ? "yes" : "no";
    }
    filterRows();
  };
  const filterRows = () => {
    const words = byId("filter").value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    const only = byId("only").checked;
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = (only && !row.classList.contains("chosen")) || (words.length > 0 && !words.some((word) => text.includes(word)));
      shown += row.hidden ? 0 : 1;
    }
    byId("table-words").textContent = `${shown} of ${body.rows.length} shown`;
  };
  const sortRows = (head) => {
    const column = head.cellIndex;
    const numbers = head.dataset.kind === "number";
    const down = head.getAttribute("aria-sort") === "none" ? numbers : head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.v;
    const rows = [...body.rows].sort((a, b) => {
      const one = value(a), other = value(b);
      if (one === "" || other === "") return (one === "") - (other === "");
      const order = numbers ? Number(one) - Number(other) : one.localeCompare(other, "en", { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows);
  };

  /* Examples */
  const cards = byId("cards") ? [...byId("cards").children] : [];
  const fieldsOf = new Map(cards.map((card) => [card, JSON.parse(card.dataset.fields)]));
  const effectOf = (card) => data.examples.shown[Number(card.dataset.place)][state.own];
  const toneOf = (effect) => {
    if (effect === null) return 3;
    const share = effect / data.examples.bound;
    return CUTS.filter((cut) => share > cut).length;
  };
  const better = data.sign;
  const orders = {
    most: (a, b) => Math.abs(b) - Math.abs(a),
    least: (a, b) => Math.abs(a) - Math.abs(b),
    against: (a, b) => better * (a - b),
  };
  const drawExamples = () => {
    if (!data.examples) return;
    const first = data.searches[0];
    byId("examples-set").textContent = `Shown: the set of ${first.name} with k = ${first.sizes[state.own]}.`;
    const part = byId("part").value;
    const [field, value] = JSON.parse(byId("subgroup").value || "[null,null]");
    const order = orders[byId("order").value];
    const fits = cards.filter((card) => (!part || card.dataset.part === part) && (field === null || fieldsOf.get(card)[field] === value));
    fits.sort((a, b) => order(effectOf(a) ?? 0, effectOf(b) ?? 0));
    for (const card of cards) card.hidden = true;
    for (const card of fits) {
      const effect = effectOf(card);
      card.style.setProperty("--tone", `var(--d${toneOf(effect)})`);
      card.querySelector(".effect").textContent = signed(effect);
    }
    for (const card of fits.slice(0, state.cards)) card.hidden = false;
    byId("cards").append(...fits);
    byId("more").hidden = fits.length <= state.cards;
    byId("examples-words").textContent = `${Math.min(state.cards, fits.length)} of ${fits.length} shown`;
    drawHistogram(part);
    drawSubgroups();
  };
  const drawHistogram = (part) => {
    const { edges, counts } = data.examples.histogram;
    const parts = Object.keys(counts).filter((name) => !part || name === part);
    const total = (i) => parts.reduce((sum, name) => sum + counts[name][state.own][i], 0);
    feed("chart-histogram", "bars", edges.slice(1).map((high, i) => ({ low: edges[i], high, count: total(i) })));
  };
  const drawSubgroups = () => {
    [...byId("subgroups").tBodies[0].rows].forEach((row, i) => {
      const found = data.examples.subgroups[i];
      row.querySelector(".mean").textContent = signed(found.mean[state.own]);
      row.querySelector(".median").textContent = signed(found.median[state.own]);
      row.querySelector(".moved").textContent = percent(found.moved[state.own]);
    });
  };
  const fillSubgroups = () => {
    const seen = new Map();
    for (const fields of fieldsOf.values())
      for (const pair of Object.entries(fields)) seen.set(JSON.stringify(pair), pair);
    const options = [...seen].sort((a, b) => a[0].localeCompare(b[0])).map(([key, [name, value]]) => new Option(`${name} = ${value || "(none)"}`, key));
    byId("subgroup").append(...options);
  };

  /* One change of the state redraws what follows from it. */
  const say = (search) => {
    const k = search.sizes[state.stop];
    const interval = search.interval[state.stop];
    const held = search.heldout[state.stop];
    let words = `k = ${k}: effect ${signed(search.effect[state.stop])} on the training pairs`;
    if (held !== null) words += `, ${signed(held)} held out`;
    if (interval) words += ` (95 % interval ${signed(interval[0])} to ${signed(interval[1])})`;
    byId("k-words").textContent = words;
    byId("k").setAttribute("aria-valuetext", `k = ${k}`);
  };
  const nearest = (sizes, k) => sizes.reduce((best, size, i) => (Math.abs(size - k) < Math.abs(sizes[best] - k) ? i : best), 0);
  const draw = () => {
    const search = data.searches[state.search];
    const since = membersAt(search, state.stop);
    say(search);
    drawMaps(since, search);
    markRows(since);
    state.own = nearest(data.searches[0].sizes, search.sizes[state.stop]);
    drawExamples();
    for (const id of ["chart-frontier-heldout", "chart-frontier-training"]) if (charts[id]) feed(id, "cursor", [{ k: search.sizes[state.stop] }]);
  };
  const chooseSearch = () => {
    const k = data.searches[state.search].sizes[state.stop];
    state.search = Number(byId("search").value);
    const sizes = data.searches[state.search].sizes;
    state.stop = nearest(sizes, k);
    byId("k").max = sizes.length - 1;
    byId("k").value = state.stop;
    draw();
  };

  /* Tables that are wider than the page: words above them, and a fading edge while there is more to the right. */
  const signSideways = (one, words) => {
    words.hidden = one.scrollWidth <= one.clientWidth + 1;
    one.classList.toggle("cut", one.scrollLeft + one.clientWidth < one.scrollWidth - 1);
  };
  const watchSideways = (one) => {
    const words = document.createElement("p");
    words.className = "fine sideways";
    const what = one.classList.contains("circuit-scroll") ? "diagram" : "table";
    words.textContent = `The ${what} is wider than the page: scroll it sideways.`;
    one.before(words);
    const sign = () => signSideways(one, words);
    one.addEventListener("scroll", sign, { passive: true });
    new ResizeObserver(sign).observe(one);
    sign();
  };

  /* Attention of each head on the example that is chosen: pressing a token looks from it; null is the last one. */
  const drawPatterns = (query) => {
    const one = data.patterns[Number(byId("pattern").value)];
    const at = query === null || query >= one.tokens.length ? one.tokens.length - 1 : query;
    for (const strip of document.querySelectorAll(".strip")) {
      const weights = (one.heads[strip.dataset.head] || [])[at] || [];
      const held = strip.contains(document.activeElement);
      strip.replaceChildren(...one.tokens.map((token, i) => tokenButton(token, i, at, weights[i])));
      if (held) strip.children[at].focus();
    }
  };
  const tokenButton = (token, i, at, weight) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = token.trim() === "" ? JSON.stringify(token).slice(1, -1) : token;
    button.setAttribute("aria-pressed", String(i === at));
    button.setAttribute("aria-label", `${token}, ${weight === undefined ? "not seen" : `attention ${weight}`}`);
    if (weight === undefined) button.style.opacity = "0.6";
    else button.style.background = `color-mix(in srgb, var(--pursuit) ${Math.round(45 * weight)}%, var(--paper))`;
    if (weight >= 0.05) {
      const small = document.createElement("small");
      small.textContent = weight.toFixed(2);
      button.append(small);
    }
    button.addEventListener("click", () => drawPatterns(i));
    return button;
  };

  /* Theme: the reader's own until the button is pressed. */
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const setTheme = (name) => {
    document.documentElement.dataset.theme = name;
    byId("theme").textContent = name === "dark" ? "Light colours" : "Dark colours";
  };

  const start = () => {
    setTheme(dark.matches ? "dark" : "light");
    dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
    byId("theme").hidden = false;
    byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
    byId("k").addEventListener("input", () => { state.stop = Number(byId("k").value); draw(); });
    if (byId("search")) byId("search").addEventListener("change", chooseSearch);
    byId("filter").addEventListener("input", filterRows);
    byId("only").addEventListener("change", filterRows);
    for (const button of document.querySelectorAll("#table thead button")) button.addEventListener("click", () => sortRows(button.parentElement));
    if (data.examples) {
      fillSubgroups();
      for (const id of ["order", "part", "subgroup"]) byId(id).addEventListener("change", () => { state.cards = FIRST_CARDS; drawExamples(); });
      byId("more").addEventListener("click", () => { state.cards += 24; drawExamples(); });
    }
    if (data.patterns.length) {
      byId("pattern-controls").hidden = false;
      byId("pattern").addEventListener("change", () => drawPatterns(null));
      drawPatterns(null);
    }
    window.addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
    draw();
    for (const one of document.querySelectorAll(".scroll")) watchSideways(one);
    embedAll();
  };
  start();
})();

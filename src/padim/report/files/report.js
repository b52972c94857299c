"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const details = JSON.parse(find("details").textContent);
  const list = find("cards");
  const cards = [...list.children];
  const of = (card) => details[Number(card.dataset.index)];
  const dialog = find("large");
  let open = null;

  const byName = (a, b) =>
    of(a).category.localeCompare(of(b).category) || of(a).name.localeCompare(of(b).name);
  const orders = {
    order: (a, b) => a.dataset.index - b.dataset.index,
    descending: (a, b) => of(b).score - of(a).score,
    ascending: (a, b) => of(a).score - of(b).score,
    name: byName,
  };

  const kinds = { wrong: ["missed", "false alarm"], right: ["found", "passed"] };
  const filters = {
    category: (detail, value) => detail.category === value,
    defect: (detail, value) => detail.defect === value,
    verdict: (detail, value) => (kinds[value] || [value]).includes(detail.verdict),
  };
  const selects = Object.keys(filters).map(find).filter(Boolean);
  const admits = (select, detail, value = select.value) => !value || filters[select.id](detail, value);

  function count() {
    for (const select of selects) {
      const others = selects.filter((other) => other !== select);
      const left = details.filter((detail) => others.every((other) => admits(other, detail)));
      for (const option of select.options) {
        if (!option.value) continue;
        const n = left.filter((detail) => admits(select, detail, option.value)).length;
        option.text = `${option.dataset.name} (${n})`;
      }
    }
  }

  function arrange() {
    cards.sort(orders[find("sort").value]);
    list.append(...cards);
    let n = 0;
    for (const card of cards) {
      card.hidden = !selects.every((select) => admits(select, of(card)));
      n += !card.hidden;
    }
    find("nothing").hidden = n > 0;
    find("count").value = n === cards.length ? `${n} images` : `${n} of ${cards.length} images`;
    count();
  }

  function bar(ratio, name, all) {
    const row = document.createElement("div");
    const label = document.createElement("span");
    const track = document.createElement("span");
    const fill = document.createElement("i");
    const value = document.createElement("b");
    const longest = Math.max(2, ...all);
    row.className = "level";
    track.className = "track";
    track.style.setProperty("--one", `${100 / longest}%`);
    fill.style.width = `${(100 * ratio) / longest}%`;
    label.textContent = name;
    value.textContent = `${ratio.toFixed(2)}×`;
    track.append(fill);
    row.append(label, track, value);
    return row;
  }

  function nameLevel(i, n) {
    if (n === 1) return "all";
    return i === 0 ? "coarse" : i === n - 1 ? "fine" : n === 3 ? "middle" : `${i + 1}`;
  }

  function bars(ratios, hasCoarseHead) {
    const n = ratios.length - (hasCoarseHead ? 1 : 0);
    return ratios.map((ratio, i) => bar(ratio, i < n ? nameLevel(i, n) : "copy", ratios));
  }

  function show(card) {
    const detail = of(card);
    const [height, width] = detail.source_px;
    open = card;
    find("large-name").textContent = detail.name;
    find("large-category").textContent = detail.category;
    find("large-image").src = card.querySelector(".source").src;
    find("large-image").alt = `${detail.name}, ${detail.label}`;
    const map = find("large-map");
    map.src = card.querySelector(".map").src;
    ["left", "top", "width", "height"].forEach((side, i) => {
      map.style[side] = find("window").style[side] = `${detail.box[i]}%`;
    });
    find("usual").textContent = `usual ${detail.range[0]}`;
    find("hottest").textContent = `${detail.range[1]} hottest`;
    const [, , seenWidth, seenHeight] = detail.box;
    const seesAll = seenWidth === 100 && seenHeight === 100;
    find("window").hidden = find("unseen").hidden = seesAll;
    find("stage").style.setProperty("--w", width);
    find("stage").style.setProperty("--h", height);
    const outline = find("large-outline");
    outline.setAttribute("viewBox", `0 0 ${detail.outline_px.join(" ")}`);
    for (const path of outline.children) path.setAttribute("d", detail.outline);
    find("outline").disabled = !detail.outline;
    find("no-mask").textContent =
      detail.outline ? "" : detail.label === "normal" ? "(no defect)" : "(no mask)";
    find("large-verdict").textContent = detail.verdict;
    find("large-verdict").parentElement.className = `judgement ${card.firstElementChild.className}`;
    find("large-score").textContent = detail.score.toFixed(2);
    find("large-threshold").textContent =
      detail.threshold === null ? "n/a" : detail.threshold.toFixed(2);
    find("large-p").textContent = detail.p === null ? "n/a" : detail.p.toPrecision(2);
    find("large-label").textContent =
      detail.label === "normal" ? "normal" : `anomalous, ${detail.defect}`;
    find("large-size").textContent = `${height} × ${width} px`;
    find("levels").replaceChildren(...bars(detail.levels, detail.coarse_head));
    const shown = cards.filter((other) => !other.hidden);
    find("previous").disabled = shown[0] === card;
    find("next").disabled = shown[shown.length - 1] === card;
    if (!dialog.open) dialog.showModal();
  }

  function step(by) {
    const shown = cards.filter((card) => !card.hidden);
    const next = shown[shown.indexOf(open) + by];
    if (next) show(next);
  }

  function fade() {
    find("large-map").style.opacity = find("opacity").value / 100;
  }

  function toggle() {
    find("large-outline").classList.toggle("off", !find("outline").checked);
  }

  function unfold(hash) {
    const target = find(hash.slice(1));
    if (target && target.matches("details")) target.open = true;
  }

  for (const select of [find("sort"), ...selects]) select.addEventListener("change", arrange);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (!link) return;
    unfold(link.hash);
    if (!link.dataset.category) return;
    for (const select of selects) select.value = "";
    find("category").value = link.dataset.category;
    arrange();
  });
  const sections = [...document.querySelectorAll("details.category")];
  if (sections.length) {
    const button = find("unfold");
    const areOpen = () => sections.every((section) => section.open);
    const name = () => {
      button.textContent = areOpen() ? "Close all" : "Open all";
    };
    button.addEventListener("click", () => {
      const isOpen = !areOpen();
      for (const section of sections) section.open = isOpen;
    });
    for (const section of sections) section.addEventListener("toggle", name);
    name();
  }
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const section of folded) section.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const section of folded) section.open = false;
  });
  find("maps").addEventListener("change", () => {
    list.classList.toggle("plain", !find("maps").checked);
  });
  list.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (card) show(card);
  });
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("close").addEventListener("click", () => dialog.close());
  find("opacity").addEventListener("input", fade);
  find("outline").addEventListener("change", toggle);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  // A button that is focused and then disabled lets no key through to the dialog.
  document.addEventListener("keydown", (event) => {
    if (!dialog.open || event.target === find("opacity")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("close", () => {
    if (open) open.firstElementChild.focus();
  });
  unfold(location.hash);
  // A browser may remember what was chosen before a reload.
  arrange();
  fade();
  toggle();
  list.classList.toggle("plain", !find("maps").checked);
})();

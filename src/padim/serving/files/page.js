"use strict";

const find = (id) => document.getElementById(id);
const state = { recipes: new Map(), url: null, counts: new Map(), shown: null };

async function ask(url, options = {}) {
  const answer = await fetch(url, options);
  const content = await answer.json().catch(() => ({}));
  if (answer.status === 401) signIn();
  return { status: answer.status, content };
}

function make(tag, text, name) {
  const one = document.createElement(tag);
  one.textContent = text;
  if (name) one.className = name;
  return one;
}

const digits = (number) => Number(number.toPrecision(3)).toString();

function signIn() {
  find("main").hidden = true;
  find("sign-in").hidden = false;
  find("token").focus();
}

async function begin() {
  const { status, content } = await ask("/v1/recipes");
  if (status === 401) return;
  if (status !== 200) {
    find("sign-in-trouble").textContent = content.error || "";
    signIn();
    return;
  }
  find("sign-in").hidden = true;
  find("main").hidden = false;
  find("sign-out").hidden = !document.cookie.includes("padim_signed_in");
  showRecipes(content);
  listen();
  watchHealth();
}

function showRecipes(recipes) {
  const select = find("recipe");
  const chosen = select.value;
  state.recipes = new Map(recipes.map((one) => [one.name, one]));
  select.replaceChildren(...recipes.map((one) => new Option(one.name)));
  if (state.recipes.has(chosen)) select.value = chosen;
  const troubles = recipes.filter((one) => one.trouble);
  find("health").classList.toggle("trouble", troubles.length > 0);
  find("health").textContent = troubles.length
    ? troubles.map((one) => `${one.name}: ${one.trouble}`).join(" ")
    : "Ready";
  const alarmed = recipes.filter((one) => one.alarm);
  find("alarm").hidden = !alarmed.length;
  find("alarm").firstElementChild.textContent = alarmed
    .map((one) => `${one.name}: ${one.alarm}`).join(" ");
  find("alarm").dataset.recipes = alarmed.map((one) => encodeURIComponent(one.name)).join(" ");
}

async function watchHealth() {
  for (;;) {
    await new Promise((done) => setTimeout(done, 5000));
    try {
      const { status, content } = await ask("/v1/recipes");
      if (status !== 200) return;
      showRecipes(content);
      showLine((await ask("/v1/line")).content);
    } catch {
      find("health").classList.add("trouble");
      find("health").textContent = "The service does not answer.";
    }
  }
}

function showLine(line) {
  const workers = line.workers || [];
  find("line").hidden = !workers.length;
  find("workers").replaceChildren(...workers.map((one) => {
    const item = make("li", "", one.status);
    const waiting = line.waiting[one.name];
    item.append(
      make("strong", one.name),
      make("span", `${one.kind}, ${one.status}, ${one.n_done} done`),
      make("span", waiting ? `${waiting} wait` : ""),
      make("span", one.trouble),
    );
    return item;
  }));
}

function listen() {
  const source = new EventSource("/v1/events");
  source.addEventListener("inspection", (event) => addToStrip(JSON.parse(event.data)));
  source.addEventListener("alarm", async () => showRecipes((await ask("/v1/recipes")).content));
}

function addToStrip(record) {
  const strip = find("strip");
  if (strip.querySelector(`[data-id="${record.id}"]`)) return;
  const button = make("button", "");
  button.type = "button";
  button.dataset.id = record.id;
  button.dataset.verdict = record.verdict;
  const top = make("span", "", "top");
  top.append(make("span", "", "sign"), make("span", record.verdict));
  const score = record.score === null ? "" : `score ${digits(record.score)}`;
  const time = new Date(record.arrived).toLocaleTimeString();
  button.append(
    top,
    make("span", record.serial || record.tags.file || record.recipe, "name"),
    make("span", [time, score].filter(Boolean).join(" · "), "soft"),
  );
  button.addEventListener("click", () => showAgain(record));
  const item = document.createElement("li");
  item.append(button);
  strip.prepend(item);
  while (strip.children.length > 50) strip.lastElementChild.remove();
  state.counts.set(record.verdict, (state.counts.get(record.verdict) || 0) + 1);
  find("counts").textContent = ["OK", "NOK", "NOT INSPECTED"]
    .map((verdict) => `${state.counts.get(verdict) || 0} ${verdict}`).join(", ") + " since this page is open";
}

async function showAgain(record) {
  showRecord(record);
  const answer = await fetch(`/v1/inspections/${record.id}/picture`);
  if (answer.ok) showPicture(await answer.blob(), null, record);
  else showNothing("The picture of this inspection was not kept, or is not for this token.");
}

function showNothing(words) {
  find("shown").hidden = true;
  find("hint").hidden = false;
  find("hint").textContent = words;
}

function showPicture(blob, overlay, record) {
  if (state.url) URL.revokeObjectURL(state.url);
  state.url = URL.createObjectURL(blob);
  const picture = find("picture");
  const map = find("overlay");
  map.hidden = !overlay;
  map.src = overlay ? `data:image/jpeg;base64,${overlay}` : "";
  picture.hidden = false;
  picture.onerror = () => { picture.hidden = true; map.style.opacity = 1; };
  picture.onload = () => { map.style.opacity = ""; drawBoxes(record, picture); };
  map.onload = () => drawBoxes(record, map);
  picture.src = state.url;
  find("hint").hidden = true;
  find("shown").hidden = false;
}

function drawBoxes(record, picture) {
  const boxes = find("boxes");
  boxes.setAttribute("viewBox", `0 0 ${picture.naturalWidth} ${picture.naturalHeight}`);
  boxes.replaceChildren(...record.regions.map((region) => {
    const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const name of ["x", "y", "width", "height"]) box.setAttribute(name, region[name]);
    return box;
  }));
}

function describe(record, model) {
  if (record.verdict === "NOT INSPECTED") return `${record.reason} Treat the part as NOK.`;
  const n = model ? model.n_good : 0;
  const k = Math.round(record.p_value * (n + 1)) - 1;
  if (!n) return `The p-value is ${digits(record.p_value)}.`;
  if (record.p_value * (n + 1) < 0.999) {
    return `No one of ${n} good images scores as high; about 1 in ${Math.round(1 / record.p_value)} would.`;
  }
  if (k < 1) return `None of ${n} good images scores as high.`;
  return `${k} of ${n} good images ${k === 1 ? "scores" : "score"} at least as high.`;
}

function showRecord(record) {
  const recipe = state.recipes.get(record.recipe);
  const model = recipe && recipe.current;
  find("verdict").dataset.verdict = record.verdict;
  find("verdict").querySelector(".word").textContent = record.verdict;
  find("words").textContent = describe(record, model);
  const isScored = record.score !== null;
  find("facts").hidden = !isScored;
  find("facts").dataset.verdict = record.verdict;
  if (!isScored) return;
  const share = Math.min(100, 50 * record.score / record.threshold);
  find("facts").querySelector(".scale").style.setProperty("--share", `${share}%`);
  find("score").textContent = `score ${digits(record.score)}`;
  find("threshold").textContent = `threshold ${digits(record.threshold)} (${record.threshold_kind})`;
  showLevels(record.level_scores, model);
  find("regions").replaceChildren(...record.regions.map((one) => make(
    "li", `${one.width} × ${one.height} px at ${one.x}, ${one.y}: ${digits(one.peak)}`,
  )));
  const steps = [["waited", record.queue_ms], ["decoded", record.decode_ms], ["scored", record.score_ms]];
  find("times").textContent = steps.filter(([, ms]) => ms !== null)
    .map(([name, ms]) => `${name} ${ms.toFixed(1)} ms`).join(" · ");
}

function showLevels(scores, model) {
  const usual = model ? model.levels_usual : [];
  const ratios = scores.map((score, i) => usual[i] ? score / usual[i] : score);
  const most = Math.max(...ratios);
  find("levels").replaceChildren(...scores.map((score, i) => {
    const name = model ? model.level_names[i] : `level ${i + 1}`;
    const item = make("li", "", ratios[i] === most ? "most" : "");
    const track = make("span", "", "track");
    const bar = document.createElement("i");
    bar.style.setProperty("--share", `${Math.min(100, 100 * ratios[i] / Math.max(most, 1))}%`);
    track.append(bar);
    const words = usual[i] ? `${digits(ratios[i])} ×` : digits(score);
    item.append(make("span", name), track, make("span", words, "value"));
    item.title = usual[i]
      ? `score ${digits(score)}; 99 of 100 good images stay below ${digits(usual[i])}` : "";
    return item;
  }));
}

async function inspect(file) {
  const recipe = encodeURIComponent(find("recipe").value);
  const kind = file.type || "application/octet-stream";
  find("drop").classList.add("busy");
  try {
    const url = `/v1/recipes/${recipe}/inspections?overlay=jpeg&file=${encodeURIComponent(file.name)}`;
    const { status, content } = await ask(url, { method: "POST", body: file, headers: { "Content-Type": kind } });
    if (status === 200) {
      showRecord(content);
      showPicture(file, content.overlay, content);
    } else if (status !== 401) {
      showRecord({ verdict: "NOT INSPECTED", reason: content.error || `The service answers ${status}.`, score: null });
      showNothing("Drop another picture here.");
    }
  } catch {
    showRecord({ verdict: "NOT INSPECTED", reason: "The service does not answer.", score: null });
  } finally {
    find("drop").classList.remove("busy");
  }
}

function wire() {
  const drop = find("drop");
  const file = find("file");
  drop.addEventListener("click", () => file.click());
  drop.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); file.click(); }
  });
  file.addEventListener("change", () => { if (file.files[0]) inspect(file.files[0]); file.value = ""; });
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) inspect(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => {
    const pasted = event.clipboardData.files[0];
    if (pasted) inspect(pasted);
  });
  find("opacity").addEventListener("input", (event) => {
    find("shown").style.setProperty("--opacity", event.target.value / 100);
  });
  find("outlines").addEventListener("change", (event) => {
    find("boxes").style.visibility = event.target.checked ? "" : "hidden";
  });
  find("alarm").querySelector("button").addEventListener("click", async () => {
    for (const name of find("alarm").dataset.recipes.split(" ")) {
      await ask(`/v1/recipes/${name}/alarm`, { method: "DELETE" });
    }
    showRecipes((await ask("/v1/recipes")).content);
  });
  find("sign-in").addEventListener("submit", async (event) => {
    event.preventDefault();
    const { status, content } = await ask("/login", { method: "POST", body: find("token").value });
    if (status === 200) location.reload();
    else find("sign-in-trouble").textContent = content.error;
  });
  find("sign-out").addEventListener("click", async () => {
    await ask("/logout", { method: "POST" });
    location.reload();
  });
}

wire();
begin();

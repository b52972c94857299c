"use strict";

const find = (id) => document.getElementById(id);
const VERDICTS = ["OK", "NOK", "NOT INSPECTED"];
const PAUSE_MS = 5000; // between two looks at recipes and workers
const state = { recipes: new Map(), url: null, source: null, turn: 0, shown: null };

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
  find("sign-out").hidden = !document.cookie.includes("padim_signed_in");
  for (;;) {
    if (!await look()) return;
    await new Promise((done) => setTimeout(done, PAUSE_MS));
  }
}

// How the service is; false when who asks has to sign in.
async function look() {
  try {
    const { status, content } = await ask("/v1/recipes");
    if (status === 401 || status === 403) {
      find("sign-in-trouble").textContent = status === 403 ? content.error : "";
      signIn();
      return false;
    }
    if (status !== 200) throw new Error(content.error);
    const line = (await ask("/v1/line")).content;
    find("sign-in").hidden = true;
    find("main").hidden = false;
    find("choose").hidden = false;
    showRecipes(content);
    showLine(line);
    const said = content.flatMap(({ name, trouble, warning }) =>
      [trouble, warning].filter(Boolean).map((words) => `${name}: ${words}`));
    showHealth([line.trouble, ...said]);
    listen();
  } catch (error) {
    // What fetch throws is in the words of the browser.
    const isSaid = !(error instanceof TypeError) && error.message;
    showHealth([isSaid || "The service does not answer."]);
  }
  return true;
}

function showHealth(said) {
  const troubles = said.filter(Boolean);
  find("health").hidden = false;
  find("health").classList.toggle("trouble", troubles.length > 0);
  const words = troubles.join(" ") || "Ready";
  if (find("health").textContent !== words) find("health").textContent = words;
}

function showRecipes(recipes) {
  const select = find("recipe");
  const chosen = select.value;
  if (recipes.map((one) => one.name).join("\n") !== [...state.recipes.keys()].join("\n")) {
    select.replaceChildren(...recipes.map((one) => new Option(one.name)));
    if (recipes.some((one) => one.name === chosen)) select.value = chosen;
  }
  state.recipes = new Map(recipes.map((one) => [one.name, one]));
  const alarmed = recipes.filter((one) => one.alarm);
  find("alarm").hidden = !alarmed.length;
  find("alarm").firstElementChild.textContent = alarmed
    .map((one) => `${one.name}: ${one.alarm}`).join(" ");
  find("alarm").dataset.recipes = alarmed.map((one) => encodeURIComponent(one.name)).join(" ");
}

function showLine(line) {
  const workers = line.workers || [];
  find("line").hidden = !workers.length;
  find("workers").replaceChildren(...workers.map((one) => {
    const item = make("li", "", one.status);
    const waiting = line.waiting[one.name];
    const facts = [`${one.kind} ${one.status}`, `${one.n_done} done`, waiting && `${waiting} wait`];
    item.append(
      make("strong", one.name),
      make("span", facts.filter(Boolean).join(" · "), "soft"),
      make("span", one.trouble, "why"),
    );
    return item;
  }));
}

// A browser opens few connections to one service, so a page that nobody sees keeps none; and it
// does not come again by itself after an answer that is an error.
function listen() {
  if (document.hidden || (state.source && state.source.readyState !== EventSource.CLOSED)) return;
  const source = new EventSource("/v1/events");
  source.addEventListener("inspection", (event) => addToStrip(JSON.parse(event.data)));
  source.addEventListener("alarm", look);
  state.source = source;
}

function stopListening() {
  if (state.source) state.source.close();
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
  button.append(
    top,
    make("span", nameOf(record), "name"),
    make("span", score || "no score", "soft"),
    make("span", timeOf(record), "soft"),
  );
  button.addEventListener("click", () => showAgain(record));
  const item = document.createElement("li");
  item.append(button);
  strip.prepend(item);
  markShown();
  while (strip.children.length > 50) strip.lastElementChild.remove();
  const count = (verdict) => strip.querySelectorAll(`[data-verdict="${verdict}"]`).length;
  find("counts").textContent = `Of the last ${strip.children.length}: `
    + VERDICTS.map((verdict) => `${count(verdict)} ${verdict}`).join(", ");
}

function markShown() {
  for (const one of find("strip").querySelectorAll("button")) {
    if (one.dataset.id === state.shown) one.setAttribute("aria-current", "true");
    else one.removeAttribute("aria-current");
  }
}

const nameOf = (record) => record.serial || record.tags.file || record.tags.path || record.recipe;
const timeOf = (record) => new Date(record.arrived).toLocaleTimeString();

async function showAgain(record) {
  const turn = ++state.turn;
  showRecord(record);
  find("drop").classList.remove("busy");
  const picture = await fetch(`/v1/inspections/${record.id}/picture`)
    .then((answer) => (answer.ok ? answer.blob() : null)).catch(() => null);
  if (turn !== state.turn) return;
  if (picture) showPicture(picture, null, record);
  else showNothing("The picture of this inspection was not kept, or is not for this token.");
}

function showNothing(words) {
  find("shown").hidden = true;
  find("hint").hidden = false;
  find("said").textContent = words;
  find("tools").hidden = true;
}

function showPicture(blob, overlay, record) {
  if (state.url) URL.revokeObjectURL(state.url);
  state.url = URL.createObjectURL(blob);
  const picture = find("picture");
  const map = find("overlay");
  map.hidden = !overlay;
  find("tools").hidden = false;
  find("opacity").disabled = !overlay;
  find("no-map").hidden = Boolean(overlay);
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
  find("shown").style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
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
  find("what").textContent = record.id
    ? [nameOf(record), record.recipe, timeOf(record)].filter((one, i, all) => all.indexOf(one) === i).join(" · ")
    : "";
  state.shown = record.id;
  markShown();
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
  find("usual").textContent = usual.length ? "1 good image in 100 is above 1 ×" : "";
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
  const turn = ++state.turn;
  const recipe = encodeURIComponent(find("recipe").value);
  const kind = file.type || "application/octet-stream";
  find("drop").classList.add("busy");
  try {
    const url = `/v1/recipes/${recipe}/inspections?overlay=jpeg&file=${encodeURIComponent(file.name)}`;
    const { status, content } = await ask(url, { method: "POST", body: file, headers: { "Content-Type": kind } });
    if (turn !== state.turn) return;
    if (status === 200) {
      showRecord(content);
      showPicture(file, content.overlay, content);
    } else if (status !== 401) {
      refuse(content.error || `The service answers ${status}.`);
    }
  } catch {
    if (turn === state.turn) refuse("The service does not answer.");
  } finally {
    if (turn === state.turn) find("drop").classList.remove("busy");
  }
}

function refuse(reason) {
  showRecord({ verdict: "NOT INSPECTED", reason, score: null });
  showNothing("");
}

function offer(file) {
  if (!find("main").hidden) inspect(file);
}

function wire() {
  const drop = find("drop");
  const file = find("file");
  drop.addEventListener("click", () => file.click());
  drop.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); file.click(); }
  });
  file.addEventListener("change", () => { if (file.files[0]) offer(file.files[0]); file.value = ""; });
  // Anywhere: a browser leaves the page for a picture that is dropped beside.
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) offer(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => {
    const pasted = event.clipboardData.files[0];
    if (pasted) offer(pasted);
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
    look();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? stopListening() : listen()));
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

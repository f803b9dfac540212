// The page: its models, its photos, and what is shown of the answers. A shot is a photo
// with one answer a model; what is shown is made anew from the answers.

import { detects } from "./api.js";
import { readAddress, readModel, writeAddress } from "./address.js";
import { offerDownloads } from "./downloads.js";
import { copyText, make, say } from "./elements.js";
import { showLabels, startFilters } from "./filters.js";
import { offerCamera, playVideo } from "./live.js";
import { allModels, chosenModels, look, startList } from "./model_list.js";
import { showCard } from "./model_card.js";
import { offerOverview, overviewChanged } from "./overview.js";
import { addFiles, chosenShot, shots, startPhotos } from "./photos.js";
import { anyLoading, answerOf, askOnce, listen, resume, retry } from "./questions.js";
import { applyView, resultOf, sentenceOf, summary } from "./results.js";
import { codeOf } from "./snippets.js";
import { askForToken, offerToken, token } from "./token.js";

const $ = (id) => document.getElementById(id);

// Models.

function modelChanged() {
  showCard(chosenModels());
  shots.forEach(askAll);
  showResults();
  viewChanged();
}

function askAll(shot) {
  for (const model of chosenModels()) askOnce(shot, model);
  showBadge(shot);
}

function looked(models, cameBack) {
  readModel();
  resume(shots, models, cameBack);
  showCard(chosenModels());
}

async function tokenGiven() {
  await look();
  if (!token()) return;
  for (const shot of shots) {
    for (const model of allModels()) if (answerOf(shot, model)?.status === 401) retry(shot, model);
  }
}

// Results.

function answerChanged(shot, model) {
  showBadge(shot);
  if (shot !== chosenShot() || !chosenModels().some(({ id }) => id === model.id)) return;
  showResult(model);
  showChips();
  if (answerOf(shot, model).state !== "waiting") announce(shot, model);
}

function showBadge(shot) {
  overviewChanged();
  shot.badge.textContent = chosenModels().map((model) => summary(model, answerOf(shot, model))).join(" / ");
}

const announce = (shot, model) => say(sentenceOf(shot, model, answerOf(shot, model)));

function showResults() {
  const shown = chosenShot() ? chosenModels() : [];
  $("results").className = shown.length > 1 ? "many" : "one";
  $("results").replaceChildren(...shown.map(newResult));
  if (chosenShot() && !shown.length) {
    $("results").append(make("p", { className: "card asking" }, "Your photos wait for a model that can be asked."));
  }
  showChips();
}

function newResult(model) {
  const shot = chosenShot();
  const node = resultOf(shot, model, answerOf(shot, model), () => retry(shot, model));
  applyView(node, model, answerOf(shot, model));
  return node;
}

function showResult(model) {
  const old = [...$("results").children].find((node) => node.dataset.model === model.id);
  if (!old) return;
  const inside = old.contains(document.activeElement);
  const fresh = newResult(model);
  old.replaceWith(fresh);
  if (inside) fresh.querySelector("h3").focus(); // the button that had it is gone
}

function showChips() {
  const shot = chosenShot();
  showLabels(shot ? chosenModels().map((model) => [model, answerOf(shot, model)]) : []);
}

function viewChanged() {
  forEachResult(applyView);
  shots.forEach(showBadge);
  showChips();
  showCode();
  overviewChanged();
  writeAddress();
}

function viewSet() {
  forEachResult((_node, model, answer) => {
    if (answer.state === "done" && detects(model)) announce(chosenShot(), model);
  });
}

function forEachResult(act) {
  for (const node of $("results").children) {
    const model = chosenModels().find(({ id }) => id === node.dataset.model);
    if (model) act(node, model, answerOf(chosenShot(), model));
  }
}

function showCode() {
  const models = chosenModels();
  $("same").hidden = !models.length;
  if (!models.length) return;
  const language = document.querySelector("input[name=language]:checked").value;
  $("same-code").textContent = codeOf(language, models, shots.map(({ name }) => name), Boolean(token()));
}

function photoChosen() {
  showResults();
  showCode();
  overviewChanged();
}

/** Add a sample photo of the server's, as if it were chosen. */
async function addSample({ target }) {
  const { sample } = target.dataset;
  const answer = await fetch(sample).catch(() => null);
  if (!answer?.ok) return say("The server has this photo no more.");
  const blob = await answer.blob();
  addFiles([new File([blob], sample.split("/").at(-1), { type: blob.type })]);
}

// Events.

listen({ changed: answerChanged, unauthorized: askForToken, notReady: look, unreachable: look });
startPhotos({ added: askAll, chosen: photoChosen, video: playVideo });
startFilters({ changed: viewChanged, set: viewSet });
$("ask").onsubmit = (event) => event.preventDefault();
$("same-copy").onclick = ({ currentTarget }) => copyText($("same-code"), currentTarget);
document.querySelector(".tabs").onchange = showCode;
offerOverview();
offerDownloads();
for (const each of document.querySelectorAll("[data-sample]")) each.onclick = addSample;
offerCamera((file) => addFiles([file]));
offerToken(tokenGiven);
startList({ changed: modelChanged, looked, waits: () => anyLoading(shots) });
readAddress();
modelChanged();

// Follows an active session: asks for its page again, and changes the messages of the open one that have changed, so that
// what is unfolded or focused stays. What the server sends is parsed without being run.
"use strict";

const INTERVAL_MS = 1000;
const live = document.getElementById("live");
const conversation = document.getElementById("conversation");
const seen = new Map([...conversation.children].map((item) => [item.id, item.outerHTML]));
let tag = "";
let over = "";

function say(text) {
  // A screen reader reads it again with each change.
  if (live.textContent !== text) live.textContent = text;
}

function take(page) {
  let added = 0;
  let before = null;
  const items = [...page.getElementById("conversation").children];
  const ids = new Set(items.map((item) => item.id));
  for (const shown of [...conversation.children]) if (!ids.has(shown.id)) shown.remove();
  for (const item of items) {
    const shown = document.getElementById(item.id);
    if (shown && seen.get(item.id) === item.outerHTML) {
      before = shown;
      continue;
    }
    seen.set(item.id, item.outerHTML);
    const now = document.importNode(item, true);
    if (shown) shown.replaceWith(now);
    else if (before) before.after(now);
    else conversation.prepend(now);
    if (!shown) added += 1;
    before = now;
  }
  // The first message beyond a page brings the link to those before.
  const older = page.getElementById("older");
  const olderShown = document.getElementById("older");
  if (older && !olderShown) conversation.before(document.importNode(older, true));
  else if (older && olderShown.innerHTML !== older.innerHTML) olderShown.replaceWith(document.importNode(older, true));
  const facts = page.getElementById("facts");
  const open = document.getElementById("facts");
  const details = open.querySelector("details[open]");
  if (details) facts.querySelector("details")?.setAttribute("open", "");
  if (!open.contains(document.activeElement)) open.replaceWith(document.importNode(facts, true));
  return added;
}

async function ask() {
  const answer = await fetch(location.href, { headers: { "If-None-Match": tag } });
  if (answer.status === 304) return;
  if (answer.status === 404) {
    over = "The session has been deleted.";
    return;
  }
  if (!answer.ok) throw new Error(`${answer.status}`);
  tag = answer.headers.get("ETag");
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const added = take(page);
  if (page.getElementById("live") === null) over = "The session has ended.";
  if (added) say(`${added} new at ${new Date().toISOString().slice(11, 19)}. Following.`);
}

async function follow() {
  try {
    if (document.visibilityState === "visible") await ask();
    if (over) return say(over);
    if (!live.textContent.endsWith("Following.")) say("Following.");
  } catch {
    say("Not reached just now. Still trying.");
  }
  setTimeout(follow, INTERVAL_MS);
}

follow();

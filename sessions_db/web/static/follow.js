// Follows an active session: asks for its page again, and adds the messages that are new to the one that is open.
// What the server sends is parsed without being run, and the Content-Security-Policy of this page holds for it.
"use strict";

const INTERVAL_MS = 1000;
const live = document.getElementById("live");
const conversation = document.getElementById("conversation");
const seen = new Map([...conversation.children].map((item) => [item.id, item.outerHTML]));
let tag = "";
let over = false;

function say(text) {
  // A screen reader reads it again with each change.
  if (live.textContent !== text) live.textContent = text;
}

function take(page) {
  let added = 0;
  for (const item of page.getElementById("conversation").children) {
    const html = item.outerHTML;
    if (seen.get(item.id) === html) continue;
    seen.set(item.id, html);
    const shown = document.getElementById(item.id);
    if (shown) shown.replaceWith(document.importNode(item, true));
    else {
      conversation.append(document.importNode(item, true));
      added += 1;
    }
  }
  // "No messages."
  if (!page.getElementById("gap-0")) document.getElementById("gap-0")?.remove();
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
  if (!answer.ok) throw new Error(`${answer.status}`);
  tag = answer.headers.get("ETag");
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const added = take(page);
  over = page.getElementById("live") === null;
  if (added) say(`${added} new at ${new Date().toISOString().slice(11, 19)}. Following.`);
}

async function follow() {
  try {
    if (document.visibilityState === "visible") await ask();
    if (over) return say("The session has ended.");
    if (!live.textContent.endsWith("Following.")) say("Following.");
  } catch {
    say("Not reached just now. Still trying.");
  }
  setTimeout(follow, INTERVAL_MS);
}

follow();

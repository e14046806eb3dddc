// Asks for the page again every two seconds and puts what has changed in place, node by node, so that focus, scroll and
// selection stay where they are. It pauses while nobody looks, and when it is told to.
"use strict";
(() => {
  const EVERY = 2000;
  const PATIENCE = 10000;
  const live = document.getElementById("live");
  const pause = document.getElementById("pause");
  let timer = 0;
  let asking = false;
  let paused = false;

  const say = (text, isBad) => {
    // Said once: a screen reader reads each change aloud.
    if (live.textContent !== text) live.textContent = text;
    live.classList.toggle("bad", isBad);
    document.body.classList.toggle("stale", isBad);
  };

  const isSelected = (node) => {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && selection.containsNode(node, true);
  };

  const attributes = (old, fresh) => {
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  };

  const isKeyed = (node) => node.nodeType === Node.ELEMENT_NODE && node.hasAttribute("data-key");

  // Rows with a key stay the same rows wherever they go.
  const keyed = (old, fresh) => {
    const known = new Map();
    for (const child of old.children) known.set(child.dataset.key, child);
    let place = old.firstElementChild;
    for (const child of [...fresh.children]) {
      const same = known.get(child.dataset.key);
      known.delete(child.dataset.key);
      if (same === undefined) {
        old.insertBefore(document.importNode(child, true), place);
      } else if (same === place) {
        place = place.nextElementSibling;
        put(same, child);
      } else {
        old.insertBefore(same, place);
        put(same, child);
      }
    }
    for (const gone of known.values()) gone.remove();
  };

  const children = (old, fresh) => {
    if ([...fresh.children].some(isKeyed)) return keyed(old, fresh);
    const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
    after.forEach((child, at) => {
      if (before[at] === undefined) old.append(document.importNode(child, true));
      else put(before[at], child);
    });
    before.slice(after.length).forEach((child) => child.remove());
  };

  const put = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeName !== fresh.nodeName) return old.replaceWith(document.importNode(fresh, true));
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = fresh.nodeValue;
      return;
    }
    attributes(old, fresh);
    children(old, fresh);
  };

  const show = (fresh) => {
    if (document.title !== fresh.title) document.title = fresh.title;
    for (const old of document.querySelectorAll("[data-live]")) {
      const part = fresh.getElementById(old.id);
      // What somebody is about to copy stays.
      if (part !== null && !isSelected(old)) put(old, part);
    }
  };

  const ask = async () => {
    if (asking) return;
    asking = true;
    try {
      const signal = AbortSignal.timeout(PATIENCE);
      const answer = await fetch(location.pathname, { cache: "no-store", redirect: "error", signal });
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (fresh.getElementById("state") === null) throw new Error("another page");
      if (!paused) {
        show(fresh);
        say("live", false);
      }
    } catch {
      if (!paused) say("no answer: what is shown is old", true);
    }
    asking = false;
    next();
  };

  const next = () => {
    clearTimeout(timer);
    if (!paused && !document.hidden) timer = setTimeout(ask, EVERY);
  };

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    if (paused) {
      clearTimeout(timer);
      say("paused", false);
    } else {
      ask();
    }
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else if (!paused) ask();
  });

  document.getElementById("reload").hidden = true;
  pause.hidden = false;
  say("live", false);
  next();
})();

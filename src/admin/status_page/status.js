// Refreshes the page: fetches it every two seconds and replaces the nodes that changed. All other nodes stay, and with them
// focus, scroll position and selection. The refresh pauses while the page is hidden, and with the button.
"use strict";
(() => {
  const REFRESH_INTERVAL_MS = 2000;
  const FETCH_TIMEOUT_MS = 10000;
  const statusText = document.getElementById("live");
  const pauseButton = document.getElementById("pause");
  let timer = 0;
  let isFetching = false;
  let isPaused = false;

  const showStatus = (text, isBad) => {
    // Written only if it changed, because a screen reader reads each change aloud.
    if (statusText.textContent !== text) statusText.textContent = text;
    statusText.classList.toggle("bad", isBad);
    document.body.classList.toggle("stale", isBad);
  };

  const isSelected = (node) => {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && selection.containsNode(node, true);
  };

  const updateAttributes = (old, fresh) => {
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  };

  const isKeyed = (node) => node.nodeType === Node.ELEMENT_NODE && node.hasAttribute("data-key");

  // A row keeps its element if its key is still there, also at another position.
  const updateRows = (old, fresh) => {
    const remaining = new Map();
    for (const child of old.children) remaining.set(child.dataset.key, child);
    let position = old.firstElementChild;
    for (const child of [...fresh.children]) {
      const same = remaining.get(child.dataset.key);
      remaining.delete(child.dataset.key);
      if (same === undefined) {
        old.insertBefore(document.importNode(child, true), position);
      } else if (same === position) {
        position = position.nextElementSibling;
        update(same, child);
      } else {
        old.insertBefore(same, position);
        update(same, child);
      }
    }
    for (const gone of remaining.values()) gone.remove();
  };

  const updateChildren = (old, fresh) => {
    if ([...fresh.children].some(isKeyed)) return updateRows(old, fresh);
    const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
    after.forEach((child, at) => {
      if (before[at] === undefined) old.append(document.importNode(child, true));
      else update(before[at], child);
    });
    before.slice(after.length).forEach((child) => child.remove());
  };

  const update = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeName !== fresh.nodeName) return old.replaceWith(document.importNode(fresh, true));
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = fresh.nodeValue;
      return;
    }
    updateAttributes(old, fresh);
    updateChildren(old, fresh);
  };

  const timeZone = new Intl.DateTimeFormat("en", { timeZoneName: "short" });
  const twoDigits = (number) => String(number).padStart(2, "0");

  // The server writes each time in UTC. This is the same format in the time zone of the browser: 2026-07-31 20:23:49 GMT+2.
  const localTime = (date) => {
    const day = [date.getFullYear(), twoDigits(date.getMonth() + 1), twoDigits(date.getDate())].join("-");
    const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(twoDigits).join(":");
    const zone = timeZone.formatToParts(date).find(({ type }) => type === "timeZoneName").value;
    return `${day} ${time} ${zone}`;
  };

  const localizeTimes = (page) => {
    for (const time of page.querySelectorAll("time")) time.textContent = localTime(new Date(time.dateTime));
  };

  const updatePage = (fresh) => {
    // Before the comparison, so that a time that did not change stays the same node.
    localizeTimes(fresh);
    if (document.title !== fresh.title) document.title = fresh.title;
    for (const old of document.querySelectorAll("[data-live]")) {
      const part = fresh.getElementById(old.id);
      // A selection stays until it is dropped, so that its text can be copied.
      if (part !== null && !isSelected(old)) update(old, part);
    }
  };

  const refresh = async () => {
    if (isFetching) return;
    isFetching = true;
    try {
      const signal = AbortSignal.timeout(FETCH_TIMEOUT_MS);
      const response = await fetch(location.pathname, { cache: "no-store", redirect: "error", signal });
      if (!response.ok) throw new Error(String(response.status));
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      if (fresh.getElementById("state") === null) throw new Error("another page");
      if (!isPaused) {
        updatePage(fresh);
        showStatus("live", false);
      }
    } catch {
      if (!isPaused) showStatus("no response: this page is out of date", true);
    }
    isFetching = false;
    schedule();
  };

  const schedule = () => {
    clearTimeout(timer);
    if (!isPaused && !document.hidden) timer = setTimeout(refresh, REFRESH_INTERVAL_MS);
  };

  pauseButton.addEventListener("click", () => {
    isPaused = !isPaused;
    pauseButton.textContent = isPaused ? "Go on" : "Pause";
    if (isPaused) {
      clearTimeout(timer);
      showStatus("paused", false);
    } else {
      refresh();
    }
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else if (!isPaused) refresh();
  });

  localizeTimes(document);
  document.getElementById("reload").hidden = true;
  pauseButton.hidden = false;
  showStatus("live", false);
  schedule();
})();

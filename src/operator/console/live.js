// Keeps a page up to date while somebody looks at it: asks for the same page again, and shows what
// differs. The page is whole without it, and has all texts itself.
"use strict";

// So long it waits between two looks, and for an answer.
const PAUSE_MS = 5000;
const PATIENCE_MS = 10000;

const [asOf, silent, ended, region] =
    ["as-of", "silent", "ended", "live"].map((id) => document.getElementById(id));
// As it came: what people do to the page is no news.
let shown = region.innerHTML;
let isAsking = false;

const timer = setInterval(look, PAUSE_MS);
document.addEventListener("visibilitychange", look);

async function look() {
    if (document.hidden || isAsking) return;
    isAsking = true;
    try {
        const answer = await fetch(location.href, {
            // Nobody clicked, so the session is not in use thereby.
            headers: { "Tilld-Refresh": "1" },
            redirect: "manual",
            // Browsers that cannot do this wait for as long as they do.
            signal: AbortSignal.timeout?.(PATIENCE_MS),
        });
        if (answer.type === "opaqueredirect") return end();
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        // What is no such page is no answer.
        show(page.getElementById("as-of").textContent, page.getElementById("live"));
        silent.hidden = true;
    } catch {
        silent.hidden = false;
    } finally {
        isAsking = false;
    }
}

// Whoever is logged out finds that out with the next click.
function end() {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", look);
    silent.hidden = true;
    ended.hidden = false;
}

function show(time, next) {
    const news = next.innerHTML;
    if (news !== shown) {
        if (isInUse()) return;
        const focused = region.contains(document.activeElement) && nameOf(document.activeElement);
        region.replaceChildren(...next.childNodes);
        shown = news;
        if (focused) {
            const all = [...region.querySelectorAll("a, button")];
            (all.find((one) => nameOf(one) === focused) ?? region).focus({ preventScroll: true });
        }
    }
    asOf.textContent = time;
}

// Nothing moves under a hand: while something is marked, or is about to be pressed. What has a field
// to write in does not keep itself up to date.
function isInUse() {
    const marked = document.getSelection();
    return region.querySelector("button:hover, a:hover") !== null ||
        (!marked.isCollapsed && region.contains(marked.anchorNode));
}

function nameOf(element) {
    return ["href", "name", "value"].map((name) => element.getAttribute(name)).join(" ");
}

// Changes a part of the page into what the server says it is now, and leaves alone what is the same: what has the
// focus keeps it, and nothing jumps. Elements with an id are found again wherever they have moved.

export function morph(part, html) {
  const next = new DOMParser().parseFromString(`<body>${html}</body>`, "text/html").body;
  children(part, next);
}

function children(have, want) {
  const named = new Map([...have.children].filter((one) => one.id).map((one) => [one.id, one]));
  const isFirst = !have.firstChild;
  let at = have.firstChild;
  for (const wanted of [...want.childNodes]) {
    const found = wanted.id ? named.get(wanted.id) : null;
    if (found) {
      if (found === at) at = at.nextSibling;
      else have.insertBefore(found, at);
      change(found, wanted);
    } else if (at && at.nodeName === wanted.nodeName && !at.id && !wanted.id) {
      const next = at.nextSibling;
      change(at, wanted);
      at = next;
    } else {
      const added = document.importNode(wanted, true);
      if (wanted.id && named.size && !isFirst) added.classList.add("new");
      have.insertBefore(added, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function change(have, want) {
  if (have.nodeType !== Node.ELEMENT_NODE) {
    if (have.nodeValue !== want.nodeValue) have.nodeValue = want.nodeValue;
    return;
  }
  for (const { name, value } of want.attributes) if (have.getAttribute(name) !== value) have.setAttribute(name, value);
  for (const { name } of [...have.attributes])
    if (!want.hasAttribute(name) && name !== "open") have.removeAttribute(name);
  children(have, want);
}

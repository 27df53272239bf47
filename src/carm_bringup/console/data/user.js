// SPDX-License-Identifier: Apache-2.0
// Who has logged in, on a console with named users.

const at = (id) => document.getElementById(id);

export function showUser(name) {
  at("user").hidden = !name;
  at("user-name").textContent = name ?? "";
}

/** Go to the login page where the session has ended; a server that is gone leads nowhere. */
export async function leaveIfLoggedOut() {
  try {
    const answer = await fetch("/", { redirect: "manual" });
    if (answer.type === "opaqueredirect") location.href = "/login";
  } catch {
    // no connection: the sockets try again
  }
}

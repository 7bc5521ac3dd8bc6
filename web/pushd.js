/**
 * What a page needs to listen to pushd.
 *
 * @module pushd
 */

/**
 * Build the address of a WebSocket from a path, on the server that the page came from.
 *
 * @param {string} path What to open, such as `/test/`.
 * @param {string | URL} base The page's own address, which decides the host and, by its protocol,
 *   between `ws:` and `wss:`.
 * @returns {string} An absolute `ws:` or `wss:` address.
 */
export function webSocketURL(path, base = document.baseURI) {
  const url = new URL(path, base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  // The WebSocket constructor of older browsers refuses an address with a fragment.
  url.hash = "";
  return url.href;
}

// While you develop, the server of "npm run dev" passes requests for topics on to pushd.
const target = process.env.PUSHD ?? "http://127.0.0.1:8080";

export default { server: { proxy: { "/topics": { target, ws: true } } } };

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { useTopic } from "./useTopic";

function News() {
  const { publications, state } = useTopic<string>("/topics/news");
  return (
    <>
      <p id="status">{state?.state}</p>
      <ul id="news">
        {publications.map(({ id, data }) => (
          <li key={id}>{data}</li>
        ))}
      </ul>
    </>
  );
}

const root = createRoot(document.querySelector("#app")!);
root.render(
  <StrictMode>
    <News />
  </StrictMode>,
);

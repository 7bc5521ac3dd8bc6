import { createApp, h } from "vue";
import { useTopic } from "./useTopic";

const News = {
  setup() {
    const { publications, state } = useTopic<string>("/topics/news");
    return () => [
      h("p", { id: "status" }, state.value?.state),
      h("ul", { id: "news" }, publications.value.map(({ id, data }) => h("li", { key: id }, data))),
    ];
  },
};

createApp(News).mount("#app");

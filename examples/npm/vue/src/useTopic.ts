import { subscribe, type Publication, type State, type SubscribeOptions } from "pushd-client";
import { shallowRef, toValue, watchEffect, type MaybeRefOrGetter } from "vue";

type TopicOptions = Omit<SubscribeOptions, "onState">;

/** Return refs of what is published to a topic from now on, and of the state. */
export function useTopic<Data>(url: MaybeRefOrGetter<string>, options?: TopicOptions) {
  const publications = shallowRef<readonly Publication<Data>[]>([]);
  const state = shallowRef<State>();
  // Another URL makes another subscription, and the end of the component is the end of the last.
  watchEffect((onCleanup) => {
    publications.value = [];
    const add = (one: Publication<Data>) => {
      publications.value = [...publications.value, one];
    };
    const onState = (next: State) => {
      state.value = next;
    };
    onCleanup(subscribe<Data>(toValue(url), add, { ...options, onState }).close);
  });
  return { publications, state };
}

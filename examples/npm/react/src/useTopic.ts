import { subscribe, type Publication, type State, type SubscribeOptions } from "pushd-client";
import { useEffect, useState } from "react";

type TopicOptions = Omit<SubscribeOptions, "onState">;

/** Return what was published to a topic since the component was mounted, and the state. */
export function useTopic<Data>(url: string, options?: TopicOptions) {
  const [publications, setPublications] = useState<Publication<Data>[]>([]);
  const [state, setState] = useState<State>();
  useEffect(() => {
    const add = (one: Publication<Data>) => setPublications((others) => [...others, one]);
    const { close } = subscribe<Data>(url, add, { ...options, onState: setState });
    return () => {
      close();
      setPublications([]);
    };
    // Only another URL makes another subscription: options may be a new object at each render.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [url]);
  return { publications, state };
}

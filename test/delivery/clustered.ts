import type { Engine } from '../../src/engine/engine.ts'

/** The engine as one of a cluster looks: answers may be lost, and several relays share it. */
export function clustered(engine: Engine): Engine {
  const supports = { ...engine.supports, losesAnswers: true }
  return new Proxy(engine, {
    get(target, name) {
      if (name === 'supports') return supports
      const value = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

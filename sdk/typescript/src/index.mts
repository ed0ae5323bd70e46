// The same classes as `require` gives: there is one copy of each.
export * from './index.js';

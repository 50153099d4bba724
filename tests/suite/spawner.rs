//! The spawner alone, over the executor's line: what a child gets, what it may not, how runs end,
//! and what the spawner does with a peer that misbehaves.

mod accounts;
mod child;
mod delivery;
mod endings;
mod line;

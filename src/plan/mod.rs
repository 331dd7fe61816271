//! What to do, as data: pure planners over a [`Host`](crate::host::Host). They read nothing and change nothing.

pub mod live;
pub mod names;

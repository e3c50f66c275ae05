//! Pictures of latencies: percentiles, values over time, heat maps; as SVG text or as PNG bytes.
//!
//! | room | what is in it |
//! |---|---|
//! | [`scene`] | shapes in pixels, and how they become SVG or PNG |
//! | [`axis`] | where a number stands: linear, logarithmic, by nines |
//! | [`percentiles`] | latency by percentile, one line a distribution |
//! | [`over_time`] | percentiles, or a rate, over time |
//! | [`heat_map`] | how many values were how large, when |
//!
//! A picture is first a [`scene::Scene`], so both kinds of file show the same, and tests look at shapes and not at pixels.

pub mod axis;
pub mod heat_map;
pub mod over_time;
pub mod percentiles;
pub mod scene;

//! docs
/// docs
pub fn docs() -> String {
    String::new()
}

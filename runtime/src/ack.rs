//! Acknowledgements: which inputs the confirmed outputs settle.

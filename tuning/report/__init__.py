"""What people read of a study: one HTML page, without anything outside it."""

//! List and watch over raw JSON: a cache of objects, and Keys for what may have changed.

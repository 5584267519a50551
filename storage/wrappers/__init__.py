"""Stores around stores: each adds one behaviour and is an `ObjectStore` itself."""

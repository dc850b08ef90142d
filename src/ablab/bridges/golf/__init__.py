"""parameter-golf's submissions."""

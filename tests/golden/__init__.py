"""What the shipped model says about fixed photographs, and how little a photograph's company matters."""

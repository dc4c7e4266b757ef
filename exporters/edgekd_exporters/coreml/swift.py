def write(folder, manifest):
    pass

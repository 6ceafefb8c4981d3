SELECT id FROM cluster

UPDATE checks SET number = number + 1

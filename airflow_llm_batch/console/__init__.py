"""Jobs outside of an Airflow task: for notebooks, trials, and whoever is called at three in the morning."""

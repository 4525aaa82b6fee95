"""The whole chain on a real kubelet: the demo, bad inputs on the cluster it leaves, and interruptions."""
